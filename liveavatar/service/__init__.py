"""The app's side of the wire: jobs, the engine process and the files they leave."""
