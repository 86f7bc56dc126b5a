/** lxmin's object keys: `<instance>/<backup>_instance.tar.gz`, and `<backup>_profile_<nnn>_<name>.yaml` for each profile. Pure. */
import type { StoredObject } from '../storage/objectStore.ts';

interface LxminProfile {
  /** Its position among the instance's profiles, from 0. */
  number: number;
  name: string;
  object: StoredObject;
}

/** A backup of lxmin's, complete or not. */
export interface LxminBackup {
  /** As given to lxmin: `c1`, or `remote:c1`. */
  instance: string;
  /** `backup_2022-02-17-09-3329` */
  name: string;
  archive: StoredObject | undefined;
  profiles: LxminProfile[];
}

/** Until April 2022 (v0.1.3) the archive was `<backup>.tar.gz`, and there were no profiles. */
const inFolder =
  /^([^/]+)\/(backup_\d{4}-\d\d-\d\d-\d\d-\d{4})(?:(?:_instance)?\.tar\.gz|_profile_(\d{3,4})_([^/]+)\.yaml)$/;

/** Returns the backups among these objects, in the order of their keys, and the objects that are not lxmin's. */
export function readLayout(objects: StoredObject[]): { backups: LxminBackup[]; foreign: StoredObject[] } {
  const backups = new Map<string, LxminBackup>();
  const foreign: StoredObject[] = [];
  for (const object of objects) {
    const [, instance, name, number, profile] = inFolder.exec(object.key) ?? [];
    if (instance === undefined || name === undefined) {
      foreign.push(object);
      continue;
    }
    const id = `${instance}/${name}`;
    const backup = backups.get(id) ?? { instance, name, archive: undefined, profiles: [] };
    backups.set(id, backup);
    if (number === undefined || profile === undefined) backup.archive = object;
    else backup.profiles.push({ number: Number(number), name: profile, object });
  }
  for (const { profiles } of backups.values()) profiles.sort((a, b) => a.number - b.number);
  return { backups: [...backups.values()].sort((a, b) => (idOf(a) < idOf(b) ? -1 : 1)), foreign };
}

function idOf({ instance, name }: LxminBackup): string {
  return `${instance}/${name}`;
}

/** Whether it is a backup of the instance of this name, with or without its remote. */
export function isOf({ instance }: LxminBackup, name: string): boolean {
  return instance === name || instance.endsWith(`:${name}`);
}

/** The time in a backup's name. lxmin took it from its local clock; lxstow reads it as UTC, and so keeps the name. */
export function timeInName(name: string): Date | undefined {
  const [, date, hour, minute, second] = /^backup_(\d{4}-\d\d-\d\d)-(\d\d)-(\d\d)(\d\d)$/.exec(name) ?? [];
  const time = new Date(`${date}T${hour}:${minute}:${second}Z`);
  return Number.isNaN(time.getTime()) ? undefined : time;
}
