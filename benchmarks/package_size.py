"""How large the package is, and how large its functions are.

    python -m benchmarks.package_size

Counts lines as they stand in the files, with docstrings, comments and blank lines.
"""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import taskmanager

PACKAGE = Path(taskmanager.__file__).parent


def functions_of(path: Path) -> Iterator[tuple[int, str]]:
    """Lines and name of each function and method of a file; one inside another is part of it."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield lines, f"{path.relative_to(PACKAGE).as_posix()} {node.name}"
        else:
            nodes += ast.iter_child_nodes(node)


def main() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    functions = [found for path in paths for found in functions_of(path)]
    longest_file = max(paths, key=lines.__getitem__)
    longest, name = max(functions)
    print(f"lines: {sum(lines.values()):,} in {len(paths)} files")
    print(f"modules at the root: {len(list(PACKAGE.glob('*.py')))}")
    print(f"longest file: {lines[longest_file]} lines, {longest_file.relative_to(PACKAGE)}")
    print(
        f"functions: {len(functions):,}, median {statistics.median(n for n, _ in functions)} lines"
    )
    print(f"longest function: {longest} lines, {name}")


if __name__ == "__main__":
    main()
