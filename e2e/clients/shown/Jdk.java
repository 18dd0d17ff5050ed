import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.net.http.WebSocketHandshakeException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.regex.Pattern;

/** The JDK's own HttpClient. */
class Jdk {
    public static void main(String[] args) {
        var end = new CompletableFuture<String>();
        var listener = new WebSocket.Listener() {
            @Override
            public CompletionStage<?> onClose(WebSocket ws, int code, String reason) {
                end.complete("`onClose` %d \"%s\"".formatted(code, reason));
                return null;
            }

            @Override
            public void onError(WebSocket ws, Throwable err) {
                end.complete("`onError` " + err);
            }
        };
        try {
            HttpClient.newHttpClient().newWebSocketBuilder().header("Authorization", "Bearer " + args[1])
                    .buildAsync(URI.create(args[0]), listener).join();
            System.out.println("open");
            System.out.println("shown " + end.join());
        } catch (CompletionException err) {
            if (!(err.getCause() instanceof WebSocketHandshakeException refused)) {
                throw err;
            }
            var response = refused.getResponse();
            var word = Pattern.compile("error_description=\"([^\"]*)\"").matcher(response.headers().firstValue("WWW-Authenticate").orElse(""));
            System.out.println("shown `WebSocketHandshakeException` " + response.statusCode() + " " + (word.find() ? word.group(1) : ""));
        }
    }
}
