"""What a run says of the filters of its members: which are to blame for the mistakes."""
