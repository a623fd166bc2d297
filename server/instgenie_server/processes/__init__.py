"""Other programs that run as long as the server does: started again when they end, ended when the server does."""
