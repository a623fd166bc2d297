"""What clients and the service say to each other, and how."""
