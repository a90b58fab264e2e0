"""What can this kind of device do? One TOML file per device, read into a frozen schema."""
