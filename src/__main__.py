import sys

if __name__ == "__main__":
    try:
        from src.main import main

        main()
    except KeyboardInterrupt:  # before the server's own handlers are in place
        sys.exit(130)
