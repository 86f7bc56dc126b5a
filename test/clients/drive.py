"""Drives lxstow with pylxd, and prints what it was told: one JSON object a line.

drive.py URL SERVER_CERT CLIENT_CERT CLIENT_KEY INSTANCE ARCHIVE
"""

import json
import sys
import threading

import pylxd

url, server_cert, client_cert, client_key, name, archive = sys.argv[1:]


def tell(what, **facts):
    print(json.dumps({"what": what, **facts}), flush=True)


client = pylxd.Client(endpoint=url, cert=(client_cert, client_key), verify=server_cert)
tell("server", auth=client.host_info["auth"], trusted=client.trusted)
for instance in client.instances.all():
    tell("instance", name=instance.name, status=instance.status)
instance = client.instances.get(name)
tell("full", name=instance.name, state=instance.state().status)

events = client.events()
seen = []
done = threading.Event()


def received(message):
    event = json.loads(str(message))
    seen.append(event["type"])
    if event["type"] == "lifecycle":
        done.set()


events.received_message = received
events.connect()
threading.Thread(target=events.run, daemon=True).start()

backups = client.api.instances[name].backups
created = backups.post(json={"name": "from-python.tar", "compression_algorithm": "none"}).json()
operation = client.operations.wait_for_operation(created["operation"])
done.wait()
tell("created", status=operation.status, events=sorted(set(seen)))
events.close()

tell("names", names=backups.get().json()["metadata"])
shown = backups["from-python.tar"].get().json()["metadata"]
tell("backup", name=shown["name"], size=shown["size"])
with open(archive, "wb") as file:
    for piece in backups["from-python.tar"].export.get(stream=True).iter_content(2**20):
        file.write(piece)
    tell("archive", size=file.tell())
deleted = backups["from-python.tar"].delete().json()
tell("deleted", type=deleted["type"], status=deleted["status"])
try:
    backups["from-python.tar"].get()
except pylxd.exceptions.NotFound as error:
    tell("gone", error=str(error))
