"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table. The first ``left`` columns are aligned left, the others right, as numbers are.

    >>> print(table(["codec", "ms"], [["JPEG", "5"]]))
    | codec | ms |
    | --- | ---: |
    | JPEG | 5 |
    """
    rule = ["---" if column < left else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))
