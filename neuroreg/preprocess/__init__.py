"""Bringing a pair onto the network grid."""
