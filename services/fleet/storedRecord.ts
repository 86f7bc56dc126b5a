/** Reads the values of the instances' bucket. Each host's workers write those of their host. Checks only what lxstow relies on. */
import type { InstanceRecord } from '../contract/schemas.ts';
import { has, isObject, isText, maybe, validRecord } from '../nats/bucket/validRecord.ts';

/** The last inventory of a remote. */
export interface Inventory {
  /** When it was taken. */
  at: string;
  /** When the records were last compared with the bucket in S3; absent: never, or not since a process asked for it. */
  compared?: string;
}

const isInventory = has({ at: isText, compared: maybe(isText) });
const isNamed = has({ project: isText, instance: isText });
const isSeen = has({
  ...{ at: isText, uuid: maybe(isText), gone: maybe(isText), was: maybe(isNamed), renamed: maybe(isNamed) },
  excluded: maybe((value) => typeof value === 'boolean'),
  schedules: maybe((value) => Array.isArray(value) && value.every(isText)),
  keep: maybe((value) => isObject(value) && Object.values(value).every(isText)),
});
const isRecord = has({
  seen: maybe(isSeen),
  good: maybe(has({ backup: isText, at: isText })),
  removed: maybe(isText),
  last: maybe(has({ at: isText, outcome: isText, reason: maybe(isText) })),
});

/** The record of an instance; undefined if the value is none. */
export function readRecord(value: Uint8Array): InstanceRecord | undefined {
  return validRecord(value, isRecord);
}

/** The note about an inventory; undefined if the value is none. */
export function readInventory(value: Uint8Array): Inventory | undefined {
  return validRecord(value, isInventory);
}
