"""Runs the README's first example on the package that is installed: `python tests/installed.py`.

`--kernels` asks for compiled ones. It needs nothing of the tests, so that wheels are tried with it
in environments that hold them and NumPy alone.
"""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def main() -> int:
    """0 where the example gives what it says; prints where the package is."""
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != README.parent]
    import qemu_swalp
    from qemu_swalp.kernels import cpu

    print(qemu_swalp.__version__, "in", Path(qemu_swalp.__file__).parent)
    print("kernels:", cpu.instruction_set() or cpu.refusal())
    if "--kernels" in sys.argv and cpu.library() is None:
        return 1
    example = re.search(r"```python\n(>>> .*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    if example is None:
        print("README.md has no example of >>> lines")
        return 1
    test = doctest.DocTestParser().get_doctest(example[1], {}, "README.md", str(README), 0)
    return doctest.DocTestRunner().run(test).failed


if __name__ == "__main__":
    sys.exit(main())
