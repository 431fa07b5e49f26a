"""The command line, from the project's folder: `python cli.py fit --model.mixer=retention`."""

from lit_modules.main import main

if __name__ == "__main__":
    main()
