"""How the roles talk: messages, framed sockets, FTP staging, archives, tokens."""
