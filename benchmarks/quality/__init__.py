"""What each way of making a clip faster costs in quality: clips of nano made exactly and in another way, compared."""
