"""Robots: drivers, the wire, the inference server and its client, the control runtime. Its client side needs no torch."""
