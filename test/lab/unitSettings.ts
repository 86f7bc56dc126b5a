import { readFileSync } from 'node:fs';

const systemd = new URL('../../packaging/systemd/', import.meta.url);
const setting = /^Environment=(NODE_OPTIONS|MALLOC_ARENA_MAX)=(.*)$/gm;

/** What systemd's units set for Node and the C library. Options for Node in the caller's own environment are added. */
export function unitSettings(part: 'gateway' | 'worker'): NodeJS.ProcessEnv {
  const files = ['lxstow-.service.d/common.conf', `lxstow-${part}.service`];
  const text = files.map((file) => readFileSync(new URL(file, systemd), 'utf8')).join('\n');
  const settings = Object.fromEntries([...text.matchAll(setting)].map(([, name = '', value = '']) => [name, value]));
  const { NODE_OPTIONS: own = '' } = process.env;
  return { ...settings, NODE_OPTIONS: `${settings.NODE_OPTIONS} ${own}`.trim() };
}
