"""What a doctor found: findings with evidence and advice, as text, table and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
ORDER: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: ``error``: certainly wrong; ``warning``: suspicious; ``info``: worth knowing.
        title: what.
        evidence: numbers, and in which frames.
        action: what to do about it.
        frames: frame numbers, from 0, all of them.
    """

    severity: Severity
    title: str
    evidence: str
    action: str = ""
    frames: tuple[int, ...] = ()


@dataclass
class Report:
    """Findings and the figures they rest on.

    Attributes:
        subject: what was examined.
        findings: errors first once it is complete.
        figures: JSON-able measurements.
    """

    subject: str
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def add(self, severity: Severity, title: str, evidence: str, action: str = "", frames: Iterable[int] = ()) -> None:
        """Add a finding; errors stay before warnings before the rest."""
        self.findings.append(Finding(severity, title, evidence, action, tuple(int(f) for f in frames)))
        self.findings.sort(key=lambda f: ORDER.index(f.severity))

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [f for f in self.findings if f.severity == severity]

    @property
    def verdict(self) -> str:
        """``errors``, ``warnings`` or ``healthy``."""
        return "errors" if self.of("error") else "warnings" if self.of("warning") else "healthy"

    def text(self) -> str:
        """As lines of text."""
        count = ", ".join(f"{len(self.of(s))} {s}{'s' * (len(self.of(s)) != 1)}" for s in ORDER if self.of(s))
        lines = [f"{self.subject}: {self.verdict}" + (f" ({count})" if count else "")]
        for f in self.findings:
            lines.append(f"  {f.severity:8s}{f.title}: {f.evidence}")
            if f.action and f.severity != "info":
                lines.append(f"          -> {f.action}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """For machines and for the model file."""
        return {
            "subject": self.subject,
            "verdict": self.verdict,
            "findings": [asdict(f) | {"frames": list(f.frames[:1000])} for f in self.findings],
            "figures": self.figures,
        }

    def show(self) -> None:
        """As a table on standard output."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        table = Table(box=box.SIMPLE, title=f"{self.subject}: {self.verdict}", title_justify="left", expand=False)
        for column in ("", "what", "evidence", "what to do"):
            table.add_column(column, overflow="fold")
        color = {"error": "bold red", "warning": "yellow", "info": "dim"}
        for f in self.findings:
            table.add_row(Text(f.severity, color[f.severity]), Text(f.title), Text(f.evidence), Text(f.action))
        console.print(table)


def listed(frames: Sequence[int], most: int = 6) -> str:
    """``"frames 3, 17, 40 and 12 more"``."""
    shown = ", ".join(str(int(f)) for f in frames[:most])
    more = f" and {len(frames) - most} more" if len(frames) > most else ""
    return f"frame{'s' * (len(frames) != 1)} {shown}{more}"
