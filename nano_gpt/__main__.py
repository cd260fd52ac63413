"""`python -m nano_gpt` and `torchrun -m nano_gpt`: the same as the `nano-gpt` script."""

from nano_gpt.cli.main import main

if __name__ == "__main__":
    main()
