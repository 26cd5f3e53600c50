"""``python -m manifold_mixup.lab``, for machines where no command is installed."""

from manifold_mixup.lab.cli import main

if __name__ == "__main__":
    main()
