"""How does a bundle answer a question here? Opens bundles, runs them, serves them over MQTT."""
