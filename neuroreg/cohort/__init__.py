"""Cohorts: many registrations, none of them lost. A case is a transaction on the file system, the journal the truth."""
