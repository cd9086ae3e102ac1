"""From resolved settings to a server on the network: socket, application, logs, signals."""
