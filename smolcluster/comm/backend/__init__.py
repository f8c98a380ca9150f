"""The backend `smol`: c10d's operations over links."""
