"""Which node should answer? Hears questions over MQTT and sends each to the node with the least delay."""
