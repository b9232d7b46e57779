"""What clients and emulators say to each other: gRPC and REST on one port, and the gateway behind both."""
