"""What is done with a learner, before and while it trains"""
