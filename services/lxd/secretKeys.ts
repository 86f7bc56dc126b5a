/** Keys of configurations whose values are often secrets, so viewers and publishers may not see them. */
const secrets = /^(environment\.|cloud-init\.|user\.(user-data|vendor-data|meta-data|network-config)$)/;

const mask = '********';

/** Whether it is such a key of an instance's configuration. */
export function isSecretKey(key: string): boolean {
  return secrets.test(key);
}

/** Whether it is such a key of a storage pool's configuration: `powerflex.user.password`, `pure.api.token`, Incus's `truenas.api_key`. */
export function isSecretPoolKey(key: string): boolean {
  return /(password|passphrase|secret|token|key)$/i.test(key);
}

/** The configuration, with secrets that are set replaced by asterisks. */
export function maskedConfig(config: object, isSecret: (key: string) => boolean): object {
  return Object.fromEntries(Object.entries(config).map(([key, text]) => [key, isSecret(key) && text ? mask : text]));
}
