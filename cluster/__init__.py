"""The engine room: everything that imports ray. It moves work to where it runs; what the work is, salcore knows."""
