"""Pallas is imported by the first kernel that is traced, not with the program."""

import subprocess
import sys


def test_the_program_is_imported_without_pallas():
    program = """
import sys, skipsr_jax.cli.infer
from skipsr_jax.kernels.pallas import pl, triton

assert "jax.experimental.pallas" not in sys.modules
assert pl.cdiv(5, 2) == 3 and not hasattr(pl, "of_no_module")
assert triton.CompilerParams is sys.modules["jax.experimental.pallas.triton"].CompilerParams
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
