"""Whether a deployment works, looked at from outside and from its project: `cab doctor`. In running order:

diagnosis      one finding: what was looked at, what was seen, what to do
expected       what the configuration needs in the project, and who may read which secret
project        the project as it is: databases, keys, secrets, topics, subscriptions; APIs and indexes in the cloud
outside        the deployment's origin, identity providers and connections, and the clock
exercise       one exchange that must succeed, one that must fail, one event that must arrive
examination    all of it at once
"""
