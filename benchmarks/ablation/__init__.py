"""Each learned stage against its classical counterpart: on rendered scenes and on photographs."""
