"""What the simulated shop promises, measured: fidelity, calibration of its tests, speed."""
