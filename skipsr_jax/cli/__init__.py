"""The programs: what infer.py, train.py and the installed commands run."""
