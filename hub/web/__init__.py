"""What does a hub serve over HTTP?"""
