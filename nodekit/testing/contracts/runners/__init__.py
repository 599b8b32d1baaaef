"""What calls containers, piece by piece or at once."""
