"""The engine process. Started by module name, never imported by the app."""
