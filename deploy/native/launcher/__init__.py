"""The native launcher behind `./stack`."""
