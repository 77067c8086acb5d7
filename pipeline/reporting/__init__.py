"""The report page and the leaderboard, made from what the stages wrote."""
