"""What tests of this package, and of methods and schedules written elsewhere, build on."""
