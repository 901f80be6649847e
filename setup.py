"""Lists what a wheel holds; pyproject.toml has everything else about the package.

The configs and two checkpoints are top-level folders of the repository and subfolders of the
installed package, which pyproject.toml cannot say together with a search for packages.
skipsr_jax/resources.py finds both forms.
"""

from setuptools import find_packages, setup

FOLDERS = {"skipsr_jax.configs": "configs", "skipsr_jax.pretrained": "checkpoints"}

setup(
    packages=[*find_packages(include=["skipsr_jax*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={
        "skipsr_jax.pretrained": ["tiny/**/*", "mask_predictor/**/*"],
        "skipsr_jax.evaluation": ["*/*.html", "*/*.css", "*/*.js"],
    },
)
