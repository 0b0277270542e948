"""What the integration tests are made of: a real Kafka, a real Mosquitto, publishers, consumers.

Nothing here listens or connects beyond the loopback interface, and nothing is killed that was not started here.
"""
