"""Registration methods: pure data, no imports of the methods themselves."""
