"""Commands of ``recrl`` beyond training and launching."""
