"""Commands of `adacomcat`, one module each: flags, their checks, and the entry point."""
