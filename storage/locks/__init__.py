"""Locks: writers' and jobs', on disks and in object stores."""
