// EXPORT in single and in double precision, or in the one that is asked for: parts that are compiled at the same time.

#if !defined(PRECISION) || PRECISION == 32
EXPORT(float, f32)
#endif
#if !defined(PRECISION) || PRECISION == 64
EXPORT(double, f64)
#endif
