"""Energies of GemNet-T and GemNet-Q, written out as sums over triplets and quadruplets.

The witness of tests/models/test_gemnet.py. From the equations of arXiv:2106.08903 and the layers (their names, shapes,
order, conventions of angles) of the reference code, https://github.com/TUM-DAML/gemnet_pytorch, which does not run
with today's packages: one loop for each sum, angles by arctan, Bessel and Legendre functions from scipy. Weights are
random, by the names that the reference code's state has. Writes tests/data_files/gemnet_loops.npz.

    python tests/oracles/gemnet_loops.py        # numpy and scipy
"""

from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.special import factorial, lpmv, spherical_jn

OUT = Path(__file__).parents[1] / "data_files" / "gemnet_loops.npz"
SIZES = {
    "T": {"num_spherical": 7, "num_radial": 6, "num_blocks": 2, "atom": 6, "edge": 5, "trip": 4, "quad": 3, "rbf": 4,
          "cbf": 3, "sbf": 5, "bil_trip": 6, "bil_quad": 4, "before": 1, "after": 2, "concat": 1, "num_atom": 2},
    "Q": {"num_spherical": 4, "num_radial": 3, "num_blocks": 2, "atom": 4, "edge": 5, "trip": 4, "quad": 3, "rbf": 4,
          "cbf": 3, "sbf": 5, "bil_trip": 6, "bil_quad": 4, "before": 2, "after": 1, "concat": 2, "num_atom": 1},
}  # fmt: skip
CUTOFF, INT_CUTOFF, EXPONENT = 2.8, 4.1, 5


def weights(kind, s, rng):
    """Random weights by the names of the reference code."""
    state = {}

    def dense(name, n_in, n_out):
        state[f"{name}.linear.weight"] = rng.normal(size=(n_out, n_in)) / n_in**0.5

    def residual(name, n, count):
        for k in range(count):
            for j in (0, 1):
                dense(f"{name}.{k}.dense_mlp.{j}", n, n)

    def scale(name):
        state[f"{name}.scale_factor"] = np.array(rng.uniform(0.6, 1.6))

    def atom_block(name):
        dense(f"{name}.dense_rbf", s["rbf"], s["edge"])
        scale(f"{name}.scale_sum")
        dense(f"{name}.layers.0", s["edge"], s["atom"])
        for k in range(s["num_atom"]):
            for j in (0, 1):
                dense(f"{name}.layers.{k + 1}.dense_mlp.{j}", s["atom"], s["atom"])

    state["rbf_basis.frequencies"] = np.pi * np.arange(1, s["num_radial"] + 1) + rng.normal(size=s["num_radial"]) * 0.1
    state["atom_emb.embeddings.weight"] = rng.uniform(-(3**0.5), 3**0.5, size=(93, s["atom"]))
    dense("edge_emb.dense", 2 * s["atom"] + s["num_radial"], s["edge"])
    for name in ("mlp_rbf3", "mlp_rbf_h", "mlp_rbf_out", *(["mlp_rbf4"] if kind == "Q" else [])):
        dense(name, s["num_radial"], s["rbf"])
    state["mlp_cbf3.weight"] = rng.normal(size=(s["num_spherical"], s["num_radial"], s["cbf"])) / 4
    if kind == "Q":
        dense("mlp_cbf4", s["num_spherical"] * s["num_radial"], s["cbf"])
        state["mlp_sbf4.weight"] = rng.normal(size=(s["num_spherical"] ** 2, s["num_radial"], s["sbf"])) / 4
    for k in range(s["num_blocks"]):
        block = f"int_blocks.{k}"
        dense(f"{block}.dense_ca", s["edge"], s["edge"])
        kinds = [("trip", "dense_ba", "cbf", "cbf_sum")] + ([("quad", "dense_db", "sbf", "sbf_sum")] * (kind == "Q"))
        for which, first, basis, total in kinds:
            part = f"{block}.{which}_interaction"
            dense(f"{part}.{first}", s["edge"], s["edge"])
            dense(f"{part}.mlp_rbf", s["rbf"], s["edge"])
            scale(f"{part}.scale_rbf")
            dense(f"{part}.down_projection", s["edge"], s[which])
            state[f"{part}.mlp_{basis}.weight"] = rng.normal(size=(s[which], s[basis], s[f"bil_{which}"])) / 3
            scale(f"{part}.scale_{total}")
            dense(f"{part}.up_projection_ca", s[f"bil_{which}"], s["edge"])
            dense(f"{part}.up_projection_ac", s[f"bil_{which}"], s["edge"])
        if kind == "Q":
            dense(f"{block}.quad_interaction.mlp_cbf", s["cbf"], s["quad"])
            scale(f"{block}.quad_interaction.scale_cbf")
        residual(f"{block}.layers_before_skip", s["edge"], s["before"])
        residual(f"{block}.layers_after_skip", s["edge"], s["after"])
        atom_block(f"{block}.atom_update")
        dense(f"{block}.concat_layer.dense", 2 * s["atom"] + s["edge"], s["edge"])
        residual(f"{block}.residual_m", s["edge"], s["concat"])
    for k in range(s["num_blocks"] + 1):
        atom_block(f"out_blocks.{k}")
        dense(f"out_blocks.{k}.out_energy", s["atom"], 1)
    return state


def zeros(n_spherical, n_radial, rounded):
    """Roots of the spherical Bessel functions; the reference code rounds them to single precision."""
    points = np.pi * np.arange(1, n_radial + n_spherical)
    found = [points[:n_radial]]
    for order in range(1, n_spherical):
        points = np.array([
            brentq(lambda x, order=order: spherical_jn(order, x), a, b, xtol=1e-14, rtol=1e-15)
            for a, b in zip(points[:-1], points[1:], strict=True)
        ])  # fmt: skip
        found.append(points[:n_radial])
    found = np.array(found)
    return found.astype(np.float32).astype(float) if rounded else found


def act(x):
    return x / (1 + np.exp(-x)) / 0.6


def envelope(d, cutoff):
    x, p = d / cutoff, EXPONENT
    value = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    return value if x < 1 else 0.0


def angle(u, v):
    return np.arctan2(max(np.linalg.norm(np.cross(u, v)), 1e-9), u @ v)


def rejection(v, n):
    return v - (v @ n) / (n @ n) * n


def harmonic(order, m, theta, phi):
    """Real, Condon-Shortley phase twice, so without."""
    k = abs(m)
    norm = ((2 * order + 1) / (4 * np.pi) * factorial(order - k) / factorial(order + k)) ** 0.5
    value = norm * lpmv(k, order, np.cos(theta))
    if m == 0:
        return value
    return 2**0.5 * (-1) ** k * value * (np.cos(k * phi) if m > 0 else np.sin(k * phi))


class Loops:
    """One model on one molecule."""

    def __init__(self, kind, state, numbers, rounded=False):
        self.kind, self.s, self.w, self.numbers = kind, SIZES[kind], state, numbers
        self.z = zeros(self.s["num_spherical"], self.s["num_radial"], rounded)
        self.norm = (2 / spherical_jn(np.arange(1, len(self.z) + 1)[:, None], self.z) ** 2) ** 0.5

    def dense(self, name, x, activate=True):
        y = self.w[f"{name}.linear.weight"] @ x
        return act(y) if activate else y

    def residual(self, name, x):
        return (x + self.dense(f"{name}.dense_mlp.1", self.dense(f"{name}.dense_mlp.0", x))) / 2**0.5

    def many(self, name, x, n, first=0):
        for k in range(first, first + n):
            x = self.residual(f"{name}.{k}", x)
        return x

    def scale(self, name):
        return float(self.w[f"{name}.scale_factor"])

    def bessel(self, d, cutoff):
        """(degrees, n)"""
        found = spherical_jn(np.arange(len(self.z))[:, None], self.z * d / cutoff)
        return envelope(d, cutoff) * cutoff**-1.5 * self.norm * found

    def energy(self, positions):
        n, s = len(positions), self.s
        vector = lambda i, j: positions[j] - positions[i]  # noqa: E731  from i to j
        distance = lambda i, j: np.linalg.norm(vector(i, j))  # noqa: E731
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        edges = [(c, a) for c, a in pairs if distance(c, a) <= CUTOFF]
        inner = [(b, a) for b, a in pairs if distance(b, a) <= INT_CUTOFF]
        into = {a: [c for c, other in edges if other == a] for a in range(n)}
        rbf = {}
        for c, a in edges:
            d = distance(c, a)
            sines = np.sin(self.w["rbf_basis.frequencies"] * d / CUTOFF)
            rbf[c, a] = envelope(d, CUTOFF) * (2 / CUTOFF) ** 0.5 * sines / d
        names = ("mlp_rbf3", "mlp_rbf_h", "mlp_rbf_out", *(["mlp_rbf4"] if self.kind == "Q" else []))
        down = {name: {e: self.dense(name, rbf[e], False) for e in edges} for name in names}

        triplet = {}  # the circular basis of c -> a <- b
        for c, a in edges:
            radial = np.einsum("ln,lni->li", self.bessel(distance(c, a), CUTOFF), self.w["mlp_cbf3.weight"])
            for b in into[a]:
                if b != c:
                    theta = angle(vector(a, c), vector(a, b))
                    triplet[c, a, b] = [harmonic(k, 0, theta, 0) for k in range(s["num_spherical"])] @ radial
        quad, end = self.quadruplets(edges, inner, into, vector, distance) if self.kind == "Q" else ({}, {})

        h = [self.w["atom_emb.embeddings.weight"][z - 1] for z in self.numbers]
        m = {(c, a): self.dense("edge_emb.dense", np.concatenate([h[c], h[a], rbf[c, a]])) for c, a in edges}
        total = self.output(0, m, down["mlp_rbf_out"], into)
        for k in range(s["num_blocks"]):
            h, m = self.block(f"int_blocks.{k}", h, m, edges, into, down, triplet, quad, end)
            total += self.output(k + 1, m, down["mlp_rbf_out"], into)
        return total

    def quadruplets(self, edges, inner, into, vector, distance):
        """Spherical basis of (c, a, b, d) and circular basis of (a, b, d)."""
        s, quad, end = self.s, {}, {}
        order = [(k, m) for k in range(s["num_spherical"]) for m in [*range(k + 1), *range(-k, 0)]]
        for b, a in inner:
            for d in into[b]:
                if d == a:
                    continue
                theta = angle(vector(b, a), vector(b, d))
                each = np.array([harmonic(k, 0, theta, 0) for k in range(s["num_spherical"])])
                flat = (each[:, None] * self.bessel(distance(a, b), INT_CUTOFF)).ravel()
                end[a, b, d] = self.dense("mlp_cbf4", flat, False)
                for c in into[a]:
                    if c in (b, d):
                        continue
                    phi = angle(vector(a, b), vector(a, c))
                    across = rejection(vector(a, c), vector(a, b)), rejection(vector(b, d), vector(b, a))
                    dihedral = angle(*across)
                    radial = self.bessel(distance(c, a), CUTOFF)
                    value = 0
                    for row, (k, m) in enumerate(order):
                        value = value + harmonic(k, m, phi, dihedral) * (radial[k] @ self.w["mlp_sbf4.weight"][row])
                    quad[c, a, b, d] = value
        return quad, end

    def block(self, name, h, m, edges, into, down, triplet, quad, end):
        s = self.s
        x3 = self.messages(f"{name}.trip_interaction", m, edges, down, triplet)
        x4 = self.far(f"{name}.quad_interaction", m, edges, down, quad, end) if quad or self.kind == "Q" else None
        new = {}
        for e in edges:
            x = self.dense(f"{name}.dense_ca", m[e])
            x = (x + x3[e]) / 2**0.5 if x4 is None else (x + x3[e] + x4[e]) / 3**0.5
            x = self.many(f"{name}.layers_before_skip", x, s["before"])
            new[e] = self.many(f"{name}.layers_after_skip", (m[e] + x) / 2**0.5, s["after"])
        m = new
        update = self.atoms(f"{name}.atom_update", m, down["mlp_rbf_h"], into)
        h = [(old + more) / 2**0.5 for old, more in zip(h, update, strict=True)]
        made = {}
        for c, a in edges:
            x = self.dense(f"{name}.concat_layer.dense", np.concatenate([h[c], h[a], m[c, a]]))
            made[c, a] = (m[c, a] + self.many(f"{name}.residual_m", x, s["concat"])) / 2**0.5
        return h, made

    def messages(self, name, m, edges, down, triplet):
        x = {}
        for e in edges:
            y = self.dense(f"{name}.dense_ba", m[e]) * self.dense(f"{name}.mlp_rbf", down["mlp_rbf3"][e], False)
            x[e] = self.dense(f"{name}.down_projection", y * self.scale(f"{name}.scale_rbf"))
        total = {e: np.zeros(self.s["bil_trip"]) for e in edges}
        for (c, a, b), basis in triplet.items():
            total[c, a] += np.einsum("f,i,fio->o", x[b, a], basis, self.w[f"{name}.mlp_cbf.weight"])
        return self.swapped(name, total, edges, self.scale(f"{name}.scale_cbf_sum"))

    def far(self, name, m, edges, down, quad, end):
        x = {}
        for e in edges:
            y = self.dense(f"{name}.dense_db", m[e]) * self.dense(f"{name}.mlp_rbf", down["mlp_rbf4"][e], False)
            x[e] = self.dense(f"{name}.down_projection", y * self.scale(f"{name}.scale_rbf"))
        far = {}
        for (a, b, d), basis in end.items():
            far[a, b, d] = x[d, b] * self.dense(f"{name}.mlp_cbf", basis, False) * self.scale(f"{name}.scale_cbf")
        total = {e: np.zeros(self.s["bil_quad"]) for e in edges}
        for (c, a, b, d), basis in quad.items():
            total[c, a] += np.einsum("f,i,fio->o", far[a, b, d], basis, self.w[f"{name}.mlp_sbf.weight"])
        return self.swapped(name, total, edges, self.scale(f"{name}.scale_sbf_sum"))

    def swapped(self, name, total, edges, factor):
        made = {}
        for c, a in edges:
            same = self.dense(f"{name}.up_projection_ca", total[c, a] * factor)
            opposite = self.dense(f"{name}.up_projection_ac", total[a, c] * factor)
            made[c, a] = (same + opposite) / 2**0.5
        return made

    def atoms(self, name, m, rbf, into):
        made = []
        for a in range(len(self.numbers)):
            x = np.zeros(self.s["edge"])
            for c in into[a]:
                x = x + m[c, a] * self.dense(f"{name}.dense_rbf", rbf[c, a], False)
            x = self.dense(f"{name}.layers.0", x * self.scale(f"{name}.scale_sum"))
            made.append(self.many(f"{name}.layers", x, self.s["num_atom"], first=1))
        return made

    def output(self, k, m, rbf, into):
        return sum(
            self.dense(f"out_blocks.{k}.out_energy", h, False)[0] for h in self.atoms(f"out_blocks.{k}", m, rbf, into)
        )


def molecule(rng):
    """Seven atoms, some farther apart than the cutoffs."""
    positions = np.array([
        [0.0, 0.0, 0.0], [1.4, 0.2, 0.1], [2.1, 1.5, -0.2], [-0.6, 0.9, 0.5], [-0.5, -0.8, 0.7], [3.4, 1.6, 0.6],
        [1.9, -0.7, 0.8],
    ])  # fmt: skip
    return np.array([6, 7, 6, 1, 1, 8, 1]), positions + rng.normal(size=(7, 3)) * 0.05


def linear():
    """Propyne: three carbon atoms and a hydrogen atom exactly on a line, three hydrogen atoms beside it."""
    beside = [[-0.37, 1.02 * np.cos(t), 1.02 * np.sin(t)] for t in (0.3, 2.5, 4.6)]
    return np.array([6, 6, 6, 1, 1, 1, 1]), np.array([[0, 0, 0], [1.46, 0, 0], [2.66, 0, 0], [3.72, 0, 0], *beside])


def main():
    rng = np.random.default_rng(4)
    out = {"cutoff": CUTOFF, "int_cutoff": INT_CUTOFF}
    out["numbers"], out["positions"] = molecule(rng)
    out["linear/numbers"], out["linear/positions"] = linear()
    for kind in ("T", "Q"):
        state = weights(kind, SIZES[kind], rng)
        model = Loops(kind, state, out["numbers"])
        out[f"{kind}/energy"] = model.energy(out["positions"])
        out[f"{kind}/energy_rounded"] = Loops(kind, state, out["numbers"], True).energy(out["positions"])
        out[f"{kind}/linear"] = Loops(kind, state, out["linear/numbers"]).energy(out["linear/positions"])
        out[f"{kind}/slope"], step = np.zeros(3), 2e-4  # along a random direction of each axis: two atoms
        for axis in range(3):
            values = []
            for k in (-2, -1, 1, 2):
                moved = out["positions"].copy()
                moved[1, axis] += k * step
                values.append(model.energy(moved))
            out[f"{kind}/slope"][axis] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        out |= {f"{kind}/state/{name}": value for name, value in state.items()}
        print(kind, out[f"{kind}/energy"], out[f"{kind}/energy_rounded"], out[f"{kind}/linear"])
    np.savez_compressed(OUT, **out)


if __name__ == "__main__":
    main()
