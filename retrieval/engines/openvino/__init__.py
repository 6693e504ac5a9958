"""The engine that runs a network with OpenVINO; the fast one on a CPU."""
