"""The services of one machine as real processes: started, found again, watched and stopped."""
