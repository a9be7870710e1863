"""pqfl: post-quantum transport for federated learning. The library that a site installs."""
