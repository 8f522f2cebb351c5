"""What is known and done while a layer is called that rounds: its policy, its random steps."""
