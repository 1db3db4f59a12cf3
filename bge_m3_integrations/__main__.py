"""`python -m bge_m3_integrations ...` is `bge-m3 ...`, for where no scripts are on the path."""

from bge_m3_integrations.cli.main import main

if __name__ == "__main__":
    main()
