"""The report page and the leaderboard, created from the artifacts of the stages."""
